-- Add the events to the index of their topic. Included in publish.lua for topics that have one. `terms` is, in
-- MessagePack, the digest of the indexed fields, then per chunk three values for each term, see index_add.lua.
-- `indexed` in the metadata says which events are in the index: those between two offsets, and the digest of the fields.
local terms_of = cmsgpack.unpack(terms)
local indexed = created and call('HGET', metadata_key, 'indexed') or ''
local from, through, digest = string.match(indexed, '^(%d+) (%d+) (%x+)$')
if digest ~= terms_of[1] or tonumber(through) ~= first - 1 then
  call('UNLINK', index_key) -- events before may be missing, or be those of a topic that ended
  from = first
end
local base = first
for chunk = 1, chunks do
  local found = terms_of[chunk + 1]
  include('index_add')
  base = base + entries[3 * chunk - 2]
end
call('HSET', metadata_key, 'indexed', string.format('%d %d ', from, last) .. terms_of[1])
