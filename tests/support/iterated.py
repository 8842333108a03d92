"""The app under a foreign WSGI server that iterates streams, as gunicorn's gevent worker does.

The app is also mounted under ``/mounted``.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402
from werkzeug.middleware.dispatcher import DispatcherMiddleware  # noqa: E402

from pushsvc.broker.broker import Broker  # noqa: E402
from pushsvc.web.app import create_app  # noqa: E402

if __name__ == "__main__":
    url, prefix, port, heartbeat = sys.argv[1:]
    app = create_app(Broker(url, prefix), heartbeat=float(heartbeat))
    mounted = DispatcherMiddleware(app, {"/mounted": app})
    WSGIServer(("127.0.0.1", int(port)), mounted, log=None).serve_forever()
