-- Apply the changes of one entry to the newest events: `events` (key, value, …), `order` (offset, key, …) and the `gone`
-- keys. Beyond `max_latest` keys, those whose events are the oldest go, and are counted.
local UNPACKED = 2000 -- unpack() is bounded by the stack
for i = 1, #events, UNPACKED do
  local till = math.min(i + UNPACKED - 1, #events)
  call('HSET', latest_key, unpack(events, i, till))
  call('ZADD', latest_order_key, unpack(order, i, till))
end
for i = 1, #gone, UNPACKED do
  local till = math.min(i + UNPACKED - 1, #gone)
  call('HDEL', latest_key, unpack(gone, i, till))
  call('ZREM', latest_order_key, unpack(gone, i, till))
end
local beyond = #events > 0 and call('ZCARD', latest_order_key) - max_latest or 0
while beyond > 0 do
  local popped, oldest = call('ZPOPMIN', latest_order_key, math.min(beyond, UNPACKED)), {}
  for i = 1, #popped, 2 do
    oldest[#oldest + 1] = popped[i]
  end
  call('HDEL', latest_key, unpack(oldest))
  call('HINCRBY', metadata_key, 'evicted', #oldest)
  beyond = beyond - #oldest
end
