-- Remove terms of an event from an index. KEYS: index. ARGV: the offset of the event, then the terms.
local offset = tonumber(ARGV[1])
local place = offset % 4096 -- the events of a segment, as in index_add.lua
local segment = struct.pack('>I4', (offset - place) / 4096)
for i = 2, #ARGV do
  local member = segment .. ARGV[i] .. '\0' .. struct.pack('>I2', place)
  local found = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. member, '[' .. member .. '\255\255\255\255')
  if #found > 0 then
    redis.call('ZREM', KEYS[1], unpack(found))
  end
end
return 1
