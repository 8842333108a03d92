-- Ask for the frames of windows for a while, as those that show them do. The aggregator hears of windows that need a
-- first frame.
-- KEYS: wanted, lease, then per window: metadata of its log, metadata of its topic
-- ARGV: lifetime (ms), publish command, partition channel, '1' if topics that do not exist may be asked for, '1' to
-- remind the aggregator, then the names of the windows' logs
-- Returns {1 if an aggregator owns the partition, per window: 0 if it has no frame yet, 1 if its frames are not current,
-- 2 if they are}
local wanted_key, lease_key = KEYS[1], KEYS[2]
local lifetime, publish_command, partition_channel, unborn, remind = unpack(ARGV, 1, 5)
local now = milliseconds()
local answer = {redis.call('EXISTS', lease_key)}

-- The aggregator ends demand that is over. While there is none, streams of ever new topics would fill the hash, so a new
-- demand replaces some of those that ended long ago.
local function forget_some()
  local found = redis.call('HRANDFIELD', wanted_key, 3, 'WITHVALUES')
  for j = 1, #found, 2 do
    if tonumber(string.match(found[j + 1], '%d+')) + lifetime <= now then
      redis.call('HDEL', wanted_key, found[j])
    end
  end
end

for i = 6, #ARGV do
  local name, exists = ARGV[i], redis.call('HEXISTS', KEYS[2 * i - 8], 'created') == 1
  local last = tonumber(redis.call('HGET', KEYS[2 * i - 9], 'last') or '0')
  local state = 2
  if exists or unborn == '1' then
    -- `since` is the last frame that was written before anyone asked.
    local asked, since = string.match(redis.call('HGET', wanted_key, name) or '0 0', '(%d+) (%d+)')
    asked, since = tonumber(asked), tonumber(since)
    if asked <= now or last < since then
      since = last
    end
    if exists and last == since then
      state = last > 0 and 1 or 0
    end
    if asked <= now or (state < 2 and remind == '1') then
      redis.call(publish_command, partition_channel, name)
    end
    if redis.call('HSET', wanted_key, name, int(now + lifetime) .. ' ' .. int(since)) == 1 then
      forget_some()
    end
  end
  answer[#answer + 1] = state
end
return answer
