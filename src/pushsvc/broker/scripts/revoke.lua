-- Revoke the access of a subject from now on, and notify all processes.
-- KEYS: revoked
-- ARGV: publish command, channel, subject, how long a revocation is kept (µs), the most that are kept
-- Returns the time (µs), or 'full': another subject cannot be revoked.
local revoked_key = KEYS[1]
local publish_command, channel, subject, kept, most = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]  -- two of them differ: readers continue behind a time
redis.call('ZREMRANGEBYSCORE', revoked_key, '-inf', '(' .. int(now - kept))
if redis.call('ZCARD', revoked_key) >= tonumber(most) and not redis.call('ZSCORE', revoked_key, subject) then
  return 'full'
end
redis.call('ZADD', revoked_key, 'GT', int(now), subject)
now = tonumber(redis.call('ZSCORE', revoked_key, subject))
redis.call(publish_command, channel, int(now) .. ' ' .. subject)
return now
