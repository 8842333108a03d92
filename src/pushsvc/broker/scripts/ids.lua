-- Check the ids of a request and its key, and define `remember`. Included in publish.lua if there are any.
local UNPACKED = 2000 -- unpack() is bounded by the stack
local id_count = #ARGV - before_ids

if request_key ~= '' then
  local remembered = call('HGET', ids_key, request_key) or call('HGET', previous_ids_key, request_key)
  if remembered then
    return {'again', remembered}
  end
end

local known = {}
for start = 1, id_count, UNPACKED do
  local ids, indexes = {}, {}
  for i = start, math.min(start + UNPACKED - 1, id_count) do
    local id = ARGV[before_ids + i]
    if id ~= '' then
      ids[#ids + 1], indexes[#indexes + 1] = id, i - 1
    end
  end
  if #ids > 0 then
    local current = call('HMGET', ids_key, unpack(ids))
    local previous = call('HMGET', previous_ids_key, unpack(ids))
    for i = 1, #ids do
      local offset = current[i] or previous[i]
      if offset then
        known[#known + 1], known[#known + 2] = indexes[i], tonumber(offset)
      end
    end
  end
end
if #known > 0 then
  return {'known', unpack(known, 1, math.min(#known, UNPACKED))}
end

-- Remember the offset of each id (the first event has offset `first`), and the request's outcome and note.
remember = function(now, first, outcome)
  local since = tonumber(call('HGET', metadata_key, 'ids_since') or '')
  if since and (now - since > ids_window or call('HLEN', ids_key) > max_ids) then
    call('DEL', previous_ids_key)
    if call('EXISTS', ids_key) == 1 then
      call('RENAME', ids_key, previous_ids_key)
      call('PEXPIRE', previous_ids_key, ids_window)
    end
    since = nil
  end
  for start = 1, id_count, UNPACKED do
    local fields = {}
    for i = start, math.min(start + UNPACKED - 1, id_count) do
      local id = ARGV[before_ids + i]
      if id ~= '' then
        fields[#fields + 1], fields[#fields + 2] = id, string.format('%d', first + i - 1)
      end
    end
    if #fields > 0 then
      call('HSET', ids_key, unpack(fields))
    end
  end
  if request_key ~= '' then
    call('HSET', ids_key, request_key, outcome .. ' ' .. note)
  end
  if not since then
    call('HSET', metadata_key, 'ids_since', now)
    call('PEXPIRE', ids_key, 2 * ids_window)
  end
end
