from pushsvc.auth.grants import Grant as Grant
from pushsvc.auth.grants import Grants as Grants
from pushsvc.auth.grants import TopicGrants as TopicGrants
from pushsvc.components.registry import on as on
from pushsvc.extension.publisher import BufferFull as BufferFull
from pushsvc.extension.push import Push as Push
from pushsvc.jobs.job import Job as Job
from pushsvc_client.errors import ClientError as ClientError

__version__: str
