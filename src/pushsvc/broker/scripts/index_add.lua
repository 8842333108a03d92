-- Add terms to an index: `found` is for each value a term, a place (an offset less `base`), and how many bytes of the
-- entry are before the event.
-- A member is the segment of the event (its offset divided by SEGMENT), the term, '\0', the offset within the segment, and
-- those bytes: only an entry with a single event is too large for three bytes.
-- So the members of a segment that the log has no more come first, and those of a term come in the order of offsets.
local SEGMENT, UNPACKED = 4096, 2000 -- as in index_trim.lua and look_up.lua; unpack() is bounded by the stack
local members = {}
for i = 1, #found, 3 do
  local offset = base + found[i + 1]
  local place = offset % SEGMENT
  members[#members + 1] = 0
  members[#members + 1] = struct.pack('>I4', (offset - place) / SEGMENT) .. found[i] .. '\0'
    .. struct.pack('>I2I3', place, found[i + 2])
end
for i = 1, #members, UNPACKED do
  redis.call('ZADD', index_key, unpack(members, i, math.min(i + UNPACKED - 1, #members)))
end
