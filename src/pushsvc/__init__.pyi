from pushsvc.auth.grants import Grant as Grant
from pushsvc.auth.grants import Grants as Grants
from pushsvc.auth.grants import TopicGrants as TopicGrants
from pushsvc.components.registry import on as on
from pushsvc.extension.push import Push as Push
from pushsvc.jobs.job import Job as Job

__version__: str
