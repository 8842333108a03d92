-- Replace `data` of the entry `id` (the offset of its last event) by its current form, and mark it in `header`, if an event
-- of it was corrected. Uses `corrections_key`; nil if the log has no corrections.
-- What is stored is a line with the corrections of the entry, see correct.lua, then its events; a deleted one is empty.
if corrections_key then
  local current = redis.call('HGET', corrections_key, id)
  if current then
    data, header = current, header .. ' c'
  end
end
