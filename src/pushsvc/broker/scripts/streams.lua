-- Return whether a connection is subscribed to one of the channels ARGV[start] and later.
-- `numsub` is NUMSUB, or SHARDNUMSUB in a cluster.
local function has_streams(numsub, start)
  local counts = redis.call('PUBSUB', numsub, unpack(ARGV, start))
  for i = 2, #counts, 2 do
    if counts[i] > 0 then
      return true
    end
  end
  return false
end
