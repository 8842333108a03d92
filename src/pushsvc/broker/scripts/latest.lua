-- Keep the newest event of each key. Included in publish.lua for topics that do. `changes` is, in MessagePack, a list per
-- chunk with four values for each key: key, place in the chunk (from 0), and the first and last byte of its newest event
-- there; 0 and 0 if that removes the key.
-- `latest` in the metadata is the offset up to which the newest events are those of the log. While it lags behind, the
-- log is folded in by latest_fill.lua, so this call changes nothing.
if not created then
  call('DEL', latest_key, latest_order_key) -- a program that does not know them may have deleted the topic
end
if not created or tonumber(call('HGET', metadata_key, 'latest') or 0) == first - 1 then
  local offset = first
  for chunk, changed in ipairs(cmsgpack.unpack(changes)) do
    local events, order, gone = {}, {}, {}
    for i = 1, #changed, 4 do
      if changed[i + 2] == 0 then
        gone[#gone + 1] = changed[i]
      else
        local event = string.sub(ARGV[NAMED_ARGUMENTS + 2 * chunk], changed[i + 2], changed[i + 3])
        local at = string.format('%d', offset + changed[i + 1])
        events[#events + 1], events[#events + 2] = changed[i], string.format('%s %d ', at, now) .. event
        order[#order + 1], order[#order + 2] = at, changed[i]
      end
    end
    include('latest_apply')
    offset = offset + entries[3 * chunk - 2]
  end
  call('HSET', metadata_key, 'latest', string.format('%d', last))
end
