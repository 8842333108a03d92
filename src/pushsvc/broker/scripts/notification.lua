-- Set `message` to that of a log's channel: the entry, if it is short, as most are; else its sequence, so that it is
-- read. Uses `epoch` and `newest_topic_sequence` (text), `sequence`, `header` and `data`.
if #data > 32000 then
  message = string.format('%d', sequence)
else
  message = epoch .. ' ' .. newest_topic_sequence .. ' ' .. header .. '\n' .. data
end
