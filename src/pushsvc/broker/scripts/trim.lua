-- Functions of scripts that trim a topic's log of events. The including script declares `trim` and `describe_oldest`.

-- Describe the oldest entry of a log, as the metadata hold it: sequence, last offset, arrival, bytes of its events, and
-- the end of the header of a correction. At most 64 bytes, so that Redis keeps the metadata in its compact form. '' for an
-- empty log.
describe_oldest = function(log_key)
  local entry = redis.call('XRANGE', log_key, '-', '+', 'COUNT', 1)[1]
  if not entry then
    return ''
  end
  local sequence, first, count, arrival, kind =
    string.match(entry[2][2], '(%d+) (%d+) (%d+) %-?%d+ %-?%d+ (%d+)(.*)')
  return string.format('%d %d %d %d', sequence, first + count - 1, arrival, #entry[2][4]) .. kind
end

-- Remove at most `max_entries` old entries that are beyond one of the bounds and that no window needs.
-- log: key, metadata_key, last, bytes, oldest (as described; `bytes` and `oldest` are updated)
-- bounds: events, age and bytes (0: no bound); windows need the last `window_events` and the last `window_age` ms
-- Returns the number of removed entries, whether more could go, and in how many ms the oldest entry may be removed for its
-- age, nil if never before the log changes.
trim = function(log, bounds, now, max_entries)
  local removed, first, trimmed, arrived, more, wait = 0, nil, nil, nil, false, nil
  local gaps, closed = nil, 0 -- offsets of the log without an event, by corrections; read once they matter
  while log.oldest ~= '' do
    local sequence, last, arrival, size, kind = string.match(log.oldest, '(%d+) (%d+) (%d+) (%d+)(.*)')
    local later, age = log.last - last, now - arrival
    local beyond = later >= bounds.events
      or bounds.bytes > 0 and log.bytes > bounds.bytes
      or bounds.age > 0 and age >= bounds.age
    if not beyond or later < bounds.window_events or age < bounds.window_age then
      if later >= bounds.window_events and (beyond or bounds.age > 0) then
        wait = math.max(beyond and 0 or bounds.age - age, bounds.window_age - age)
      end
      break
    end
    gaps = gaps or tonumber(redis.call('HGET', log.metadata_key, 'gaps') or 0)
    if bounds.window_events > 1 and later - gaps < bounds.window_events then
      break -- so many of the last offsets may be without an event
    end
    if removed == max_entries then
      more = true
      break
    end
    -- XDEL comes first: it needs no memory, and after a script's first write Redis refuses no other for lack of it.
    redis.call('XDEL', log.key, last .. '-0')
    if gaps > 0 then
      -- It has the same hash tag as the log, so it is in the same slot.
      redis.call('HDEL', (string.gsub(log.key, '}:log:', '}:corrections:', 1)), last)
      local ended = tonumber(string.match(kind, 'x(%d)') or 0)
      gaps, closed = gaps - ended, closed + ended
    end
    removed, first, trimmed, arrived = removed + 1, last + 1, sequence, arrival
    log.bytes = log.bytes - size
    log.oldest = describe_oldest(log.key)
  end
  if removed > 0 then
    redis.call('HSET', log.metadata_key, 'first', first, 'trimmed', trimmed, 'bytes', log.bytes, 'oldest', log.oldest,
      'trimmed_arrival', arrived)
    if closed > 0 then
      redis.call('HINCRBY', log.metadata_key, 'gaps', -closed)
    end
  end
  return removed, more, wait
end
