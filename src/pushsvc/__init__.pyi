from pushsvc.auth.grants import Grant as Grant
from pushsvc.auth.grants import Grants as Grants
from pushsvc.auth.grants import TopicGrants as TopicGrants
from pushsvc.components.registry import on as on
from pushsvc.extension.push import Push as Push

__version__: str
