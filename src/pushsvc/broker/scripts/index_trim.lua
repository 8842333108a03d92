-- Remove at most `max_members` members of an index, of events before the offset `first_kept`. Whole segments go: up to
-- 4,095 events of the oldest one stay. Sets `more_members`.
local dead = redis.call('ZLEXCOUNT', index_key, '-', '(' .. struct.pack('>I4', math.floor(first_kept / 4096)))
if dead > 0 then
  redis.call('ZREMRANGEBYRANK', index_key, 0, math.min(dead, max_members) - 1)
end
more_members = dead > max_members
