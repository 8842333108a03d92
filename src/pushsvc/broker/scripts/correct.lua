-- Append a correction of one event to its topic's log, and change its current form, index and newest events with it.
-- Named in script.py: CorrectKeys, CorrectArguments.
-- The current form of an entry with corrected events is in the hash `corrections`, by the offset of the entry's last event:
-- a line 'place:offset:at …' (of each corrected event, the place in the entry, from 0, and offset and arrival of its last
-- correction), then the events, in their places; a deleted one is an empty line. Trimming removes it with the entry.
-- The correction is an entry of one offset. Its header ends with ' x1', or ' x2' if it deletes the event: how many offsets
-- of the log have no event by it. `gaps` in the metadata is their sum, `corrected` the offset of the last correction.
-- `new` is '' to delete. `latest` is, in MessagePack, four values for each key of which the newest event changes: key,
-- the offset of the newest event that it has ('' for none), that of the one it gets, and the value to store ('' for none).
-- Returns {'ok', offset, arrival, sequence} | {'again'}: the event or what depends on it has changed since it was read
--       | {'gone'}: the log does not have it | {'deleted'}: there is no such topic
local call = redis.call
local metadata = call('HMGET', metadata_key, 'created', 'last', 'arrival', 'bytes', 'oldest', 'latest', 'indexed', 'corrected', 'head')
if not metadata[1] then
  return {'deleted'}
end
local found = call('XRANGE', log_key, entry .. '-0', entry .. '-0')[1]
if not found then
  return {'gone'}
end
local last, at = tonumber(metadata[2]), tonumber(place)
local header, events, marks = found[2][2], found[2][4], ''
local stored = call('HGET', corrections_key, entry)
if stored then
  marks, events = string.match(stored, '^([^\n]*)\n(.*)$')
end
local begin = 1
for _ = 1, at do
  begin = string.find(events, '\n', begin, true) + 1
end
local finish = (string.find(events, '\n', begin, true) or #events + 1) - 1
if string.sub(events, begin, finish) ~= old then
  return {'again'}
end
local changes = cmsgpack.unpack(latest)
local keeps_latest = max_latest ~= '0'
if keeps_latest then
  if metadata[6] ~= metadata[2] or (metadata[8] or '') ~= corrected then
    return {'again'}
  end
  for i = 1, #changes, 4 do
    local value = call('HGET', latest_key, changes[i])
    local present = value and string.match(value, '%d+') or ''
    if present ~= changes[i + 1] then
      return {'again'}
    end
  end
end

local time = call('TIME')
local now = math.max(time[1] * 1000 + math.floor(time[2] / 1000), tonumber(metadata[3] or 0))
local epoch, sequence, newest_topic_sequence = open_partition(partition_key, run)
sequence = call('HINCRBY', partition_key, 'sequence', 1)
local offset, gaps = last + 1, new == '' and 2 or 1
local own = string.format('%d:%d:%d', at, offset, now)
local kept = {}
for mark in string.gmatch(marks, '%S+') do
  if string.match(mark, '^%d+') ~= place then
    kept[#kept + 1] = mark
  end
end
kept[#kept + 1] = own
call('HSET', corrections_key, entry,
  table.concat(kept, ' ') .. '\n' .. string.sub(events, 1, begin - 1) .. new .. string.sub(events, finish + 1))

header = string.format('%d %d 1 %d %d %d x%d', sequence, offset, now, now, now, gaps)
call('XADD', log_key, string.format('%d-0', offset), 'h', header, 'd', data)
if not metadata[5] or metadata[5] == '' then
  call('HSET', metadata_key, 'oldest', string.format('%d %d %d %d', sequence, offset, now, #data))
end
call('HSET', metadata_key, 'last', offset, 'arrival', now, 'bytes', (metadata[4] or 0) + #data, 'corrected', offset)
if not metadata[9] then -- without it the last arrival would count as the greatest time of the events
  call('HSET', metadata_key, 'head', metadata[3])
end
call('HINCRBY', metadata_key, 'gaps', gaps)
call('ZADD', changed_key, sequence, topic)

if keeps_latest then
  local events, order, gone = {}, {}, {}
  for i = 1, #changes, 4 do
    if changes[i + 3] == '' then
      gone[#gone + 1] = changes[i]
    else
      events[#events + 1], events[#events + 2] = changes[i], changes[i + 3]
      order[#order + 1], order[#order + 2] = changes[i + 2], changes[i]
    end
  end
  max_latest = tonumber(max_latest)
  include('latest_apply')
  call('HSET', metadata_key, 'latest', offset)
end

local from, through, digest = string.match(metadata[7] or '', '^(%d+) (%d+) (%x+)$')
if from and digest == fields then
  -- The terms of the old form stay: an index proposes events, and the reader compares them.
  local base, found = tonumber(event), cmsgpack.unpack(terms)
  include('index_add')
  if tonumber(through) == last then
    call('HSET', metadata_key, 'indexed', string.format('%s %d %s', from, offset, digest))
  end
end

local message
epoch, newest_topic_sequence = string.format('%d', epoch), string.format('%d', newest_topic_sequence)
include('notification')
call(publish_command, log_channel, message)
if partition_channel ~= '' then
  call(publish_command, partition_channel, topic)
end
return {'ok', offset, now, sequence}
