-- Hand an event that was given up to the owner of its group, which tries it again. KEYS: group, replays.
-- ARGV: field for the topic, offset of the dead event ('': at any rate), event, most events that may wait.
-- Returns 1 | 0 (it was replayed before) | -1 (too many wait)
local group_key, replays_key = unpack(KEYS)
local field, offset, event, most = unpack(ARGV)
if offset ~= '' and tonumber(redis.call('HGET', group_key, field) or '0') >= tonumber(offset) then
  return 0
end
if redis.call('LLEN', replays_key) >= tonumber(most) then
  return -1
end
redis.call('RPUSH', replays_key, event)
if offset ~= '' then
  redis.call('HSET', group_key, field, offset)
end
return 1
