-- Fold entries of a topic's log into its newest events.
-- KEYS: metadata, latest, latest order. ARGV: the offset up to which they are folded in ('': none is, so begin anew),
-- that after this call, the most keys, and in MessagePack per entry three values for each key: key, offset of its newest
-- event there, and the value to store, '' if that removes the key
-- Returns 1 | 0: something else was folded in meanwhile, or there is no such topic
local metadata_key, latest_key, latest_order_key = unpack(KEYS)
local call, max_latest = redis.call, tonumber(ARGV[3])
local metadata = call('HMGET', metadata_key, 'created', 'latest')
if not metadata[1] or ARGV[1] ~= '' and (metadata[2] or '0') ~= ARGV[1] then
  return 0
end
if ARGV[1] == '' then
  call('DEL', latest_key, latest_order_key)
  call('HDEL', metadata_key, 'evicted')
end
for _, changed in ipairs(cmsgpack.unpack(ARGV[4])) do
  local events, order, gone = {}, {}, {}
  for i = 1, #changed, 3 do
    if changed[i + 2] == '' then
      gone[#gone + 1] = changed[i]
    else
      events[#events + 1], events[#events + 2] = changed[i], changed[i + 2]
      order[#order + 1], order[#order + 2] = string.format('%d', changed[i + 1]), changed[i]
    end
  end
  include('latest_apply')
end
call('HSET', metadata_key, 'latest', ARGV[2])
return 1
