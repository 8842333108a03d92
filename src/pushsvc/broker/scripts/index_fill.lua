-- Add events to an index that it lacks: those just before the first one that it has.
-- KEYS: metadata, index. ARGV: the digest of the indexed fields, the first offset that the index has ('': it has none
-- that is of use), the log's last offset then, the first offset that it has after this call, and in MessagePack three
-- values for each term, see index_add.lua.
-- Returns 1 | 0: the index or the log changed meanwhile, or there is no such topic
local metadata_key, index_key = unpack(KEYS)
local metadata = redis.call('HMGET', metadata_key, 'created', 'last', 'indexed')
local from, through, digest = string.match(metadata[3] or '', '^(%d+) (%d+) (%x+)$')
local is_same
if ARGV[2] == '' then
  is_same, through = metadata[2] == ARGV[3], ARGV[3]
else
  is_same = digest == ARGV[1] and from == ARGV[2]
end
if not metadata[1] or not is_same then
  return 0
end
if ARGV[2] == '' then
  redis.call('UNLINK', index_key)
end
local base, found = 0, cmsgpack.unpack(ARGV[5])
include('index_add')
redis.call('HSET', metadata_key, 'indexed', ARGV[4] .. ' ' .. through .. ' ' .. ARGV[1])
return 1
