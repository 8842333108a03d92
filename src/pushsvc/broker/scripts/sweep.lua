-- Trim a topic's log without a publish, by at most `max_entries`, and its index, and see whether the topic is in use.
-- KEYS: partition, log, metadata, index. Arguments: SweepArguments (script.py), the bounds as in TopicLimits; a topic that
-- ends after `expire_after` ms without events and streams (0: never) has the channels of its logs after them.
-- Returns {'ok', removed entries, 1 if more could go, bytes left, 1 if the topic is to end, ms until the topic has to be
-- checked again even if it does not change (-1: never)} | {'fenced'} | {'deleted'}
local partition_key, log_key, metadata_key, index_key = unpack(KEYS)
if redis.call('HGET', partition_key, 'fence') ~= fence then
  return {'fenced'}
end
local metadata = redis.call('HMGET', metadata_key, 'created', 'last', 'bytes', 'oldest', 'arrival', 'watched', 'indexed')
if not metadata[1] then
  return {'deleted'}
end
local trim, describe_oldest
include('trim')
local now = milliseconds()
local log = {
  key = log_key, metadata_key = metadata_key, last = tonumber(metadata[2]), bytes = tonumber(metadata[3] or 0),
  oldest = metadata[4] or describe_oldest(log_key)
}
local bounds = {
  events = tonumber(retention), age = tonumber(retention_age), bytes = tonumber(retention_bytes),
  window_age = tonumber(window_age), window_events = tonumber(window_events)
}
local removed, more, wait = trim(log, bounds, now, tonumber(max_entries))
if metadata[7] and has_index == '' then -- the topic had one, by other settings
  redis.call('UNLINK', index_key)
  redis.call('HDEL', metadata_key, 'indexed')
elseif metadata[7] then
  local first_kept, max_members, more_members = tonumber(redis.call('HGET', metadata_key, 'first') or '1'), 2000, nil
  include('index_trim')
  more = more or more_members
end

local ends = false
expire_after = tonumber(expire_after)
if expire_after > 0 then
  -- `watched` is when a topic counts as watched at least: it is written once in a while only.
  local used = math.max(tonumber(metadata[5] or now), tonumber(metadata[6] or 0))
  if used <= now then
    if has_streams(numsub, NAMED_ARGUMENTS + 1) then
      used = now + math.min(math.floor(expire_after / 8), 3600000)
      redis.call('HSET', metadata_key, 'watched', used)
    else
      ends = now - used >= expire_after
    end
  end
  wait = math.min(wait or math.huge, math.max(0, used - now)) -- a stream that has ended leaves no trace
end
return {'ok', removed, more and 1 or 0, log.bytes, ends and 1 or 0, wait or -1}
