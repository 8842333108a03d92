-- Read what several logs of one partition hold, at one instant. Writes nothing, so it works on a full disk too.
-- KEYS: partition, lease, then per log: log, figures
-- ARGV: run, bytes at most, then per log: offset to read after; -1 from the last snapshot on; -2 nothing, only figures
-- Returns {1 if the partition was opened in this run, epoch, sequence, now, owned, sequence of the first event of the
-- topic that was born last, per log: {after, last, trimmed, deleted, created, more, {header, data, …}}}
local state = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'sequence', 'born')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local answer = {
  state[1] == ARGV[1] and 1 or 0, tonumber(state[2] or '0'), tonumber(state[3] or '0'), now, redis.call('EXISTS', KEYS[2]),
  tonumber(state[4] or '0')
}
-- Each log may have an equal share, and what those before it left of theirs.
local budget, share = tonumber(ARGV[2]), tonumber(ARGV[2]) / math.max(1, #ARGV - 2)
for i = 1, #ARGV - 2 do
  local log, figures = KEYS[1 + 2 * i], redis.call('HMGET', KEYS[2 + 2 * i],
    'last', 'trimmed', 'deleted', 'created', 'snapshot')
  local after, last = tonumber(ARGV[2 + i]), tonumber(figures[1] or '0')
  if after == -1 then
    after = tonumber(figures[5] or tostring(last + 1)) - 1
  elseif after == -2 then
    after = last
  end
  local entries, more, at = {}, 0, after
  local kept = share * (#ARGV - 2 - i)
  while at < last do
    -- Every log gives at least one entry, so that a reader who delivers in order of sequence always moves on.
    if budget <= kept and #entries > 0 then
      more = 1
      break
    end
    local found = redis.call('XRANGE', log, string.format('(%.0f-0', at), '+', 'COUNT', 16)
    if #found == 0 then
      break
    end
    for _, entry in ipairs(found) do
      if budget > kept or #entries == 0 then
        entries[#entries + 1], entries[#entries + 2] = entry[2][2], entry[2][4]
        budget = budget - #entry[2][4] - 100
        at = tonumber(string.match(entry[1], '%d+'))
      end
    end
  end
  answer[#answer + 1] = {
    after, last, tonumber(figures[2] or '0'), tonumber(figures[3] or '0'), tonumber(figures[4] or '0'), more, entries
  }
end
return answer
