-- Copy entries of a log to a new log, some of them with other data.
-- KEYS: log, new log. ARGV: the id to copy after, byte budget, ms for which the new log is kept, then id, data, … of those
-- that change
-- Returns {the last id that was copied, 1 if there may be more}
local log_key, new_key = unpack(KEYS)
local at, budget = ARGV[1], tonumber(ARGV[2])
include('erase_entries')
redis.call('PEXPIRE', new_key, ARGV[3])
return {at, budget <= 0 and 1 or 0}
