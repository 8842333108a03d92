-- Put a new log, in which an event is erased, in the place of the log, with the entries that came since.
-- KEYS: log, new log, metadata, index, ids, previous ids. ARGV: the id to copy after, the topic's time of creation, the id
-- of the event ('' for none), then id, data, … of the entries that change, as for erase_copy.lua
-- Returns 1 | 0: the topic was deleted meanwhile
local log_key, new_key, metadata_key, index_key, ids_key, previous_ids_key = unpack(KEYS)
local at, budget, name = ARGV[1], math.huge, ARGV[3]
local metadata = redis.call('HMGET', metadata_key, 'created', 'bytes', 'oldest')
local first = redis.call('XRANGE', log_key, '-', '+', 'COUNT', 1)[1]
if metadata[1] ~= ARGV[2] or not first then
  redis.call('DEL', new_key)
  return 0
end
include('erase_entries')
redis.call('XTRIM', new_key, 'MINID', first[1])
local bytes = tonumber(metadata[2] or 0)
for id, data in pairs(changed) do
  local before = redis.call('XRANGE', log_key, id, id)[1]
  if before then
    bytes = bytes - #before[2][4] + #data
  end
end
redis.call('PERSIST', new_key)
redis.call('RENAME', new_key, log_key)
local trim, describe_oldest
include('trim')
redis.call('HSET', metadata_key, 'bytes', bytes, 'oldest', describe_oldest(log_key))
if name ~= '' then
  redis.call('HDEL', ids_key, name)
  redis.call('HDEL', previous_ids_key, name)
end
return 1
