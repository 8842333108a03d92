-- Functions of scripts that trim a topic's log of events. The including script declares `trim` and `describe_oldest`.

-- Describe the oldest entry of a log, as the metadata hold it: sequence, last offset, arrival, bytes of its events. At
-- most 64 bytes, so that Redis keeps the metadata in its compact form. '' for an empty log.
describe_oldest = function(log_key)
  local entry = redis.call('XRANGE', log_key, '-', '+', 'COUNT', 1)[1]
  if not entry then
    return ''
  end
  local sequence, first, count, arrival = string.match(entry[2][2], '(%d+) (%d+) (%d+) %-?%d+ %-?%d+ (%d+)')
  return string.format('%d %d %d %d', sequence, first + count - 1, arrival, #entry[2][4])
end

-- Remove at most `max_entries` old entries that are beyond one of the bounds and that no window needs.
-- log: key, metadata_key, last, bytes, oldest (as described; `bytes` and `oldest` are updated)
-- bounds: events, age and bytes (0: no bound); windows need the last `window_events` and the last `window_age` ms
-- Returns the number of removed entries, and whether more could go.
trim = function(log, bounds, now, max_entries)
  local removed, first, trimmed, more = 0, nil, nil, false
  while log.oldest ~= '' do
    local sequence, last, arrival, size = string.match(log.oldest, '(%d+) (%d+) (%d+) (%d+)')
    local later, age = log.last - last, now - arrival
    local beyond = later >= bounds.events
      or bounds.bytes > 0 and log.bytes > bounds.bytes
      or bounds.age > 0 and age >= bounds.age
    if not beyond or later < bounds.window_events or age < bounds.window_age then
      break
    end
    if removed == max_entries then
      more = true
      break
    end
    -- XDEL comes first: it needs no memory, and after a script's first write Redis refuses no other for lack of it.
    redis.call('XDEL', log.key, last .. '-0')
    removed, first, trimmed = removed + 1, last + 1, sequence
    log.bytes = log.bytes - size
    log.oldest = describe_oldest(log.key)
  end
  if removed > 0 then
    redis.call('HSET', log.metadata_key, 'first', first, 'trimmed', trimmed, 'bytes', log.bytes, 'oldest', log.oldest)
  end
  return removed, more
end
