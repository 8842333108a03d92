-- Trim a topic's log while nobody publishes to it.
-- KEYS: partition, log, figures
-- ARGV: fence, retention (events), keep (ms), events that windows count, age (ms), bytes, entries at most
-- Returns {'ok', entries removed, 1 if there are more to remove, bytes left} | {'fenced'} | {'deleted'}
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return {'fenced'}
end
local figures = redis.call('HMGET', KEYS[3], 'created', 'last', 'bytes', 'oldest')
if not figures[1] then
  return {'deleted'}
end
local held = {last = tonumber(figures[2]), bytes = tonumber(figures[3] or '0'), oldest = figures[4] or peek(KEYS[2])}
local bounds = {
  events = tonumber(ARGV[2]), keep = tonumber(ARGV[3]), counted = tonumber(ARGV[4]), age = tonumber(ARGV[5]),
  bytes = tonumber(ARGV[6])
}
local removed, more = trim(KEYS[2], KEYS[3], held, bounds, milliseconds(), tonumber(ARGV[7]))
return {'ok', removed, more and 1 or 0, held.bytes}
