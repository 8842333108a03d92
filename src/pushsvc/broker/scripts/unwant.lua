-- End the demand for windows for which nobody asked again.
-- KEYS: partition, wanted. ARGV: fence, then the names of the windows' logs
-- Returns {'ok', per window: the ms for which it is still wanted, 0 if it is not} | {'fenced'}
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return {'fenced'}
end
local now, answer = milliseconds(), {'ok'}
for i = 2, #ARGV do
  local found = redis.call('HGET', KEYS[2], ARGV[i])
  local left = found and math.max(0, tonumber(string.match(found, '%d+')) - now) or 0
  if found and left == 0 then
    redis.call('HDEL', KEYS[2], ARGV[i])
  end
  answer[i] = left
end
return answer
