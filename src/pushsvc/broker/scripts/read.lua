-- Read several logs of one partition at one instant. Writes nothing, so it works on a full disk too.
-- KEYS: partition, lease, remains, changed, then per log: log, metadata
-- ARGV: run, byte budget, '1' for the current forms of corrected events else '', then per log: its name, and the offset to read after; -1: from the last snapshot on;
-- -2: only metadata
-- Returns {1 if the partition's epoch belongs to this run, {epoch, sequence, now, owned, sequence of the first event of
-- the newest topic}, per log: {after, last, trimmed, deleted, created, more, {header, data, …}[, sequence of its last
-- change, if known, with -2]}}
local partition_key, lease_key, remains_key, changed_key = unpack(KEYS, 1, 4)
local run, budget, current = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local logs = (#ARGV - 3) / 2
local state = redis.call('HMGET', partition_key, 'run', 'epoch', 'sequence', 'born')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local answer = {
  state[1] == run and 1 or 0,
  {tonumber(state[2] or '0'), tonumber(state[3] or '0'), now, redis.call('EXISTS', lease_key), tonumber(state[4] or '0')}
}
-- Each log gets an equal share of the budget, and what the logs before it left of theirs.
local share = budget / math.max(1, logs)
for i = 1, logs do
  local log_key = KEYS[3 + 2 * i]
  local metadata = redis.call('HMGET', KEYS[4 + 2 * i], 'last', 'trimmed', 'deleted', 'created', 'snapshot', 'corrected')
  if not metadata[1] then
    local topic, window = string.match(ARGV[2 + 2 * i], '([^$]*)%.%$stats%.(.*)')
    local remains = redis.call('HGET', remains_key, topic or ARGV[2 + 2 * i])
    if remains then
      local ended, last, frames = string.match(remains, '(%d+) %d+ (%d+) (%d+)')
      metadata = {window and frames or last, ended, ended}
    end
  end
  local after, last, changed = tonumber(ARGV[3 + 2 * i]), tonumber(metadata[1] or '0'), nil
  if after == -1 then
    after = tonumber(metadata[5] or tostring(last + 1)) - 1
  elseif after == -2 then
    after = last
    changed = tonumber(redis.call('ZSCORE', changed_key, ARGV[2 + 2 * i]) or last == 0 and '0' or nil)
  end
  local entries, more, at = {}, 0, after
  -- It has the same hash tag as the log, so it is in the same slot.
  local corrections_key = current and metadata[6] and (string.gsub(log_key, '}:log:', '}:corrections:', 1)) or nil
  local reserved = share * (logs - i)
  while at < last do
    -- Every log gives at least one entry: a reader that delivers in order of sequence always gets on.
    if budget <= reserved and #entries > 0 then
      more = 1
      break
    end
    local found = redis.call('XRANGE', log_key, string.format('(%.0f-0', at), '+', 'COUNT', 16)
    if #found == 0 then
      break
    end
    for _, entry in ipairs(found) do
      if budget > reserved or #entries == 0 then
        local header, data, id = entry[2][2], entry[2][4], string.match(entry[1], '%d+')
        include('current')
        entries[#entries + 1], entries[#entries + 2] = header, data
        budget = budget - #data - 100
        at = tonumber(id)
      end
    end
  end
  answer[#answer + 1] = {
    after, last, tonumber(metadata[2] or '0'), tonumber(metadata[3] or '0'), tonumber(metadata[4] or '0'), more, entries,
    changed
  }
end
return answer
