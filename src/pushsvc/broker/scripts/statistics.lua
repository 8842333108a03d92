-- Append one frame to the statistics log of a topic's window.
-- KEYS: partition, log, figures, figures of the topic
-- ARGV: run, publish command, live channel, fence, kind (s, b or u), offset of the events log, frame, late events, window
-- Returns {'ok', sequence, receivers} | {'fenced'} | {'deleted'}
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[4] then
  return {'fenced'}
end
if redis.call('HEXISTS', KEYS[4], 'created') == 0 then
  return {'deleted'}
end
local epoch, sequence, born = open_partition(KEYS[1], ARGV[1])
local figures = redis.call('HMGET', KEYS[3], 'last', 'sequence', 'snapshot', 'before_snapshot')
local last = tonumber(figures[1] or '0') + 1
sequence = sequence + 1
local header = table.concat({int(sequence), ARGV[5], ARGV[6], int(milliseconds()), int(last)}, ' ')
redis.call('XADD', KEYS[2], int(last) .. '-0', 'h', header, 'd', ARGV[7])
redis.call('HSET', KEYS[1], 'sequence', int(sequence))
redis.call('HSET', KEYS[3], 'last', int(last), 'sequence', int(sequence), 'source', ARGV[6])
if ARGV[5] ~= 'u' then
  -- The log explains itself from its last snapshot on; what lies before the last two is trimmed.
  if figures[3] then
    redis.call('XTRIM', KEYS[2], 'MINID', '=', figures[3] .. '-0')
    redis.call('HSET', KEYS[3], 'trimmed', figures[4], 'first', figures[3])
  end
  redis.call('PERSIST', KEYS[3])
  redis.call('HSET', KEYS[3], 'snapshot', int(last), 'before_snapshot', figures[2] or '0')
  local windows = redis.call('HGET', KEYS[4], 'windows') or ''
  if not string.find(' ' .. windows .. ' ', ' ' .. ARGV[9] .. ' ', 1, true) then
    redis.call('HSET', KEYS[4], 'windows', windows == '' and ARGV[9] or windows .. ' ' .. ARGV[9])
  end
end
if tonumber(ARGV[8]) > 0 then
  redis.call('HINCRBY', KEYS[4], 'late', ARGV[8])
end
return {'ok', int(sequence), redis.call(ARGV[2], ARGV[3], said(epoch, born, sequence, header, ARGV[7]))}
