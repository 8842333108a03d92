-- Find events of a topic by its index, at one instant. Writes nothing.
-- KEYS: partition, log, metadata, index, corrections. ARGV: run, digest of the indexed fields, 'after' or 'before', where to start,
-- the most events, byte budget of entries, then the terms: an event is found by any of them.
-- 'after' starts with the event after an offset and goes up, 'before' starts as read_back.lua does and goes down.
-- Returns {1 if the partition's epoch belongs to this run, epoch, 1 if the index has the events where to start, first and
-- last offset of the log, trimmed, the offset of the last event that was considered, {{header, offset, event, …}, …}}
local SEGMENT, MOST_SEGMENTS = 4096, 500 -- a segment takes 8 us
local partition_key, log_key, metadata_key, index_key, corrections_key = unpack(KEYS)
local run, fields, direction, start, most, budget = unpack(ARGV, 1, 6)
local FIRST_TERM = 7
local call, forwards = redis.call, direction == 'after'
most, budget = tonumber(most), tonumber(budget)

local state = call('HMGET', partition_key, 'run', 'epoch')
local metadata = call('HMGET', metadata_key, 'first', 'last', 'trimmed', 'indexed', 'corrected')
local first, last = tonumber(metadata[1] or '1'), tonumber(metadata[2] or '0')
local found = {}
if not metadata[5] then
  corrections_key = nil
end
local answer = {
  state[1] == run and 1 or 0, tonumber(state[2] or '0'), 0, first, last, tonumber(metadata[3] or '0'), 0, found
}
local from, through, digest = string.match(metadata[4] or '', '^(%d+) (%d+) (%x+)$')
if digest ~= fields then
  return answer
end
local lowest, highest = math.max(first, from), math.min(last, through)

local at -- the offset to consider next
if forwards then
  at = math.max(start + 1, first)
elseif start == '+' then
  at = last
else
  local after = string.match(start, '^>(%d+)$')
  local following = after and call('XRANGE', log_key, '(' .. after .. '-0', '+', 'COUNT', 1)[1]
  at = following and tonumber(string.match(following[1], '%d+')) or after and last or tonumber(start)
end
if at < lowest or at > highest then
  return answer
end
answer[3] = 1

-- Return the offsets of a segment that the terms list from `at` on, each once and in the order of reading, and the last
-- offset up to which they are complete. `skipped` has the bytes before each event in its entry.
local skipped
local function offsets_of(segment)
  local complete, offsets = forwards and (segment + 1) * SEGMENT - 1 or segment * SEGMENT, {}
  skipped = {}
  local prefix, place = struct.pack('>I4', segment), struct.pack('>I2', at % SEGMENT)
  for i = FIRST_TERM, #ARGV do
    local begin, members = prefix .. ARGV[i] .. '\0', nil
    if forwards then
      members = call('ZRANGEBYLEX', index_key, '[' .. begin .. place, '[' .. begin .. '\255', 'LIMIT', 0, most)
    else
      members = call('ZREVRANGEBYLEX', index_key, '[' .. begin .. place .. '\255\255\255', '[' .. begin .. '\0\0', 'LIMIT', 0, most)
    end
    local offset
    for _, member in ipairs(members) do
      local within, before = struct.unpack('>I2I3', member, #member - 4)
      offset = segment * SEGMENT + within
      if not skipped[offset] then
        skipped[offset], offsets[#offsets + 1] = before, offset
      end
    end
    if #members == most then
      complete = forwards and math.min(complete, offset) or math.max(complete, offset)
    end
  end
  if #ARGV > FIRST_TERM then
    table.sort(offsets, forwards and function(a, b) return a < b end or function(a, b) return a > b end)
  end
  return offsets, complete
end

local events, entry, data, entry_first, entry_last, lines = 0, nil, nil, 1, 0, nil

-- Add the event at an offset to its entry.
local function add(offset)
  if offset < entry_first or offset > entry_last then
    local one = call('XRANGE', log_key, string.format('%d-0', offset), '+', 'COUNT', 1)[1]
    if not one then
      return
    end
    local header, id = one[2][2], string.match(one[1], '%d+')
    data, entry, lines = one[2][4], {header}, nil
    if corrections_key then
      local current = call('HGET', corrections_key, id)
      if current then
        lines = {}
        for line in string.gmatch(string.match(current, '\n(.*)') .. '\n', '([^\n]*)\n') do
          lines[#lines + 1] = line
        end
      end
    end
    budget = budget - #data
    entry_first, entry_last = string.match(header, '%d+ (%d+) (%d+)')
    entry_first = tonumber(entry_first)
    entry_last = entry_first + entry_last - 1
    if offset < entry_first then
      return
    end
    found[#found + 1] = entry
  end
  events = events + 1
  if lines then -- those bytes are of other forms
    local line = lines[offset - entry_first + 1]
    if line ~= '' then
      entry[#entry + 1], entry[#entry + 2] = offset, line
    end
    return
  end
  local before = skipped[offset]
  local line_end = string.find(data, '\n', before + 1, true)
  entry[#entry + 1], entry[#entry + 2] = offset, string.sub(data, before + 1, line_end and line_end - 1)
end

local segments = 0
while at >= lowest and at <= highest and events < most and budget > 0 and segments < MOST_SEGMENTS do
  local offsets, complete = offsets_of(math.floor(at / SEGMENT))
  for _, offset in ipairs(offsets) do
    if forwards and (offset > complete or offset > highest) or not forwards and (offset < complete or offset < lowest) then
      break
    end
    if events == most or budget <= 0 then
      complete = forwards and offset - 1 or offset + 1
      break
    end
    add(offset)
  end
  at, segments = forwards and complete + 1 or complete - 1, segments + 1
end
answer[7] = forwards and math.min(at - 1, highest) or math.max(at + 1, lowest)
return answer
