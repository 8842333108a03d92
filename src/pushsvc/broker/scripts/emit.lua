-- Append events that a component emitted, unless its partition has them: `emitted` holds the number of the last ones from
-- each emitter (a group and its partition), and these come in the order of their numbers.
-- Named in script.py: the key `emitted`, then those of publish.lua; the arguments of publish.lua, then EmitArguments.
-- Returns {'emitted'}, or what publish.lua returns.
if tonumber(redis.call('HGET', emitted_key, emitter) or '0') >= tonumber(number) then
  return {'emitted'}
end
local function append()
  include('publish')
end
local reply = append()
if type(reply) == 'string' then
  redis.call('HSET', emitted_key, emitter, number)
end
return reply
