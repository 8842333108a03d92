-- Reserve streams of a subject or address for a process. KEYS: reservations, a hash: process -> 'streams expiry'.
-- ARGV: process, the streams that it wants in all, the limit of all processes, lifetime (ms) of the reservation.
-- Returns how many streams the process has reserved now. Reservations that nobody renewed are forgotten.
local reservations_key = KEYS[1]
local process = ARGV[1]
local wanted, limit, lifetime = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local others = 0
local all = redis.call('HGETALL', reservations_key)
for place = 1, #all, 2 do
  local streams, expiry = string.match(all[place + 1], '(%d+) (%d+)')
  if tonumber(expiry) <= now then
    redis.call('HDEL', reservations_key, all[place])
  elseif all[place] ~= process then
    others = others + tonumber(streams)
  end
end
local reserved = math.max(0, math.min(wanted, limit - others))
if reserved == 0 then
  redis.call('HDEL', reservations_key, process)
else
  redis.call('HSET', reservations_key, process, string.format('%d %d', reserved, now + lifetime))
end
redis.call('PEXPIRE', reservations_key, lifetime)
return reserved
