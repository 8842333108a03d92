-- Add terms to an index: `found` is a term and a place (an offset less `base`) for each value.
-- A member is the segment of the event (its offset divided by SEGMENT), the term, '\0', and the offset within the segment.
-- So the members of a segment that the log has no more come first, and those of a term come in the order of offsets.
local SEGMENT, UNPACKED = 4096, 2000 -- as in index_trim.lua and look_up.lua; unpack() is bounded by the stack
local members = {}
for i = 1, #found, 2 do
  local offset = base + found[i + 1]
  local place = offset % SEGMENT
  members[#members + 1] = 0
  members[#members + 1] = struct.pack('>I4', (offset - place) / SEGMENT) .. found[i] .. '\0' .. struct.pack('>I2', place)
end
for i = 1, #members, UNPACKED do
  redis.call('ZADD', index_key, unpack(members, i, math.min(i + UNPACKED - 1, #members)))
end
