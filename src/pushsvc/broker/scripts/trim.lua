-- Put before every script that trims a topic's log of events.

-- An entry as the figures hold the first one: sequence, last offset, arrival, bytes of its events. Short enough (64
-- bytes) for Redis to keep the figures compact.
local function describe(sequence, last, arrival, data)
  return string.format('%d %d %d %d', sequence, last, arrival, #data)
end

-- The first entry of a log, '' of an empty one.
local function peek(log)
  local entry = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if not entry then
    return ''
  end
  local sequence, first, count, arrival = string.match(entry[2][2], '(%d+) (%d+) (%d+) %-?%d+ %-?%d+ (%d+)')
  return describe(sequence, first + count - 1, arrival, entry[2][4])
end

-- Remove entries from the front of a log, at most so many, that are beyond one of its bounds and that no window needs.
-- held: last, bytes, oldest (as peek says; changed with what goes); bounds: events, age, bytes (0: none), and what
-- windows need whatever the bounds: the last `counted` events, and what arrived within `keep` ms.
-- Returns how many entries went, and whether there are more to go.
local function trim(log, figures, held, bounds, now, most)
  local removed, first, trimmed, more = 0, nil, nil, false
  while held.oldest ~= '' do
    local sequence, through, arrival, size = string.match(held.oldest, '(%d+) (%d+) (%d+) (%d+)')
    local behind, age = held.last - through, now - tonumber(arrival)
    local beyond = behind >= bounds.events
      or bounds.bytes > 0 and held.bytes > bounds.bytes
      or bounds.age > 0 and age >= bounds.age
    if not beyond or behind < bounds.counted or age < bounds.keep then
      break
    end
    if removed == most then
      more = true
      break
    end
    -- First of all: this needs no memory, and once a script has written, Redis refuses nothing more of it.
    redis.call('XDEL', log, through .. '-0')
    removed, first, trimmed = removed + 1, through + 1, sequence
    held.bytes = held.bytes - tonumber(size)
    held.oldest = peek(log)
  end
  if removed > 0 then
    redis.call('HSET', figures, 'first', int(first), 'trimmed', trimmed, 'bytes', int(held.bytes), 'oldest', held.oldest)
  end
  return removed, more
end
