-- Store what handlers of a group did in a partition: all or nothing, once, by the owner.
-- KEYS: group, then those that the commands name. Arguments: ComponentCommitArguments (script.py); then for each command
-- its name, the place of its key in KEYS, the number of its arguments, and these. `before` is the number of the last
-- commit: a commit whose answer was lost cannot follow another one.
-- Returns {'ok'} | {'fenced'}
if not owns(KEYS[1], run, fence, epoch) or (redis.call('HGET', KEYS[1], 'number') or '0') ~= before then
  return {'fenced'}
end
local at = NAMED_ARGUMENTS + 1
while at <= #ARGV do
  local last = at + 2 + tonumber(ARGV[at + 2])
  redis.call(ARGV[at], KEYS[tonumber(ARGV[at + 1])], unpack(ARGV, at + 3, last))
  at = last + 1
end
redis.call('HSET', KEYS[1], 'number', number)
return {'ok'}
