-- Forget the topics that ended long ago, as far as one step over the remains finds them, and those beyond the bound.
-- KEYS: partition, remains, changed. Arguments: ForgetArguments (script.py); `age` in ms, `cursor` of the step.
-- Returns {'ok', cursor of the next step, remembered topics, topics forgotten early, ever} | {'fenced'}
local MOST = 100 -- topics that one call forgets to make room, if the bound was lowered
local partition_key, remains_key, changed_key = unpack(KEYS)
if redis.call('HGET', partition_key, 'fence') ~= fence then
  return {'fenced'}
end
local before = milliseconds() - age
local step = redis.call('HSCAN', remains_key, cursor, 'COUNT', 200)
for i = 1, #step[2], 2 do
  if tonumber(string.match(step[2][i + 1], '%d+ (%d+)')) <= before then
    forget(remains_key, changed_key, step[2][i], step[2][i + 1])
  end
end
local room = MOST
while room > 0 and make_room(partition_key, remains_key, changed_key, tonumber(max_remains)) do
  room = room - 1
end
return {'ok', step[1], redis.call('HLEN', remains_key), tonumber(redis.call('HGET', partition_key, 'forgotten') or 0)}
