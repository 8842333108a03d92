-- Draw a slice of a rate's allowance, which all processes share. KEYS: bucket. ARGV: rate (a second), spent, wanted.
-- Returns {granted, wait}: how much may be used from now on; if that is 0, in how many ms something is there.
-- A bucket holds the allowance of one second. ``spent`` was used before it was asked for, so it may leave a debt.
local bucket_key = KEYS[1]
local rate, spent, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local MAX_DEBT = 60 -- seconds
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = rate
local kept = redis.call('GET', bucket_key)
if kept then
  local before, at = struct.unpack('<dd', kept)
  left = math.min(rate, before + math.max(0, now - at) * rate / 1000)
end
left = math.max(left - spent, -MAX_DEBT * rate)
local granted = math.max(0, math.min(wanted, math.floor(left)))
left = left - granted
local wait = 0
if granted == 0 then
  wait = math.max(1, math.ceil((1 - left) * 1000 / rate))
end
redis.call('SET', bucket_key, struct.pack('<dd', left, now), 'PX', math.ceil((rate - left) * 1000 / rate) + 1000)
return {granted, wait}
