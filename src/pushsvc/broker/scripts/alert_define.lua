-- Set or remove the definition of an alert, and notify all processes.
-- KEYS: alerts. ARGV: publish command, channel, name, definition ('': remove it), the most that are kept
-- Returns whether the alert was there before, or 'full'.
local alerts_key = KEYS[1]
local publish_command, channel, name, definition, most = unpack(ARGV)
local before = redis.call('HEXISTS', alerts_key, name)
if definition == '' then
  redis.call('HDEL', alerts_key, name)
elseif before == 0 and redis.call('HLEN', alerts_key) >= tonumber(most) then
  return 'full'
else
  redis.call('HSET', alerts_key, name, definition)
end
redis.call(publish_command, channel, name)
return before
