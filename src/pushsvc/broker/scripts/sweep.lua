-- Trim a topic's log without a publish, by at most `max_entries`. KEYS: partition, log, metadata.
-- Arguments: SweepArguments (script.py), the bounds as in TopicArguments.
-- Returns {'ok', removed entries, 1 if more could go, bytes left} | {'fenced'} | {'deleted'}
local partition_key, log_key, metadata_key = unpack(KEYS)
if redis.call('HGET', partition_key, 'fence') ~= fence then
  return {'fenced'}
end
local metadata = redis.call('HMGET', metadata_key, 'created', 'last', 'bytes', 'oldest')
if not metadata[1] then
  return {'deleted'}
end
local log = {
  key = log_key, metadata_key = metadata_key, last = tonumber(metadata[2]), bytes = tonumber(metadata[3] or '0'),
  oldest = metadata[4] or describe_oldest(log_key)
}
local bounds = {
  events = tonumber(retention), age = tonumber(retention_age), bytes = tonumber(retention_bytes),
  window_age = tonumber(window_age), window_events = tonumber(window_events)
}
local removed, more = trim(log, bounds, milliseconds(), tonumber(max_entries))
return {'ok', removed, more and 1 or 0, log.bytes}
