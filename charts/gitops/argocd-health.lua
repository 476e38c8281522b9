-- Argo CD: resource.customizations.health.meshrollout.dev_MeshRollout
local health = {status = "Progressing", message = "the operator has not looked at it yet"}
if obj.status == nil or obj.status.conditions == nil then
  return health
end
local said = {}
for _, condition in ipairs(obj.status.conditions) do
  said[condition.type] = condition
end
local ready = said["Ready"]
if ready == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not looked at this version of it yet"
  return health
end
health.message = ready.message
local waits = {Paused = true, AwaitingApproval = true}
if said["Stalled"] ~= nil and said["Stalled"].status == "True" then
  health.status = "Degraded"
elseif ready.status == "True" then
  health.status = "Healthy"
elseif waits[ready.reason] then
  health.status = "Suspended"
elseif said["GatesPassed"] ~= nil and said["GatesPassed"].status == "False" then
  -- A person must act.
  health.status = "Degraded"
end
return health
