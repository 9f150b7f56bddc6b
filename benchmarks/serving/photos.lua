-- For wrk: posts the bodies of a folder round robin, counts what was not answered with 200, and says at the
-- end what it saw as one line of JSON. Arguments: the content type, seconds to let the server fill up before its
-- answers are counted for the rate, then the files.

local ffi = require("ffi")
ffi.cdef[[
  typedef struct { long seconds; long microseconds; } timeval_t;
  int gettimeofday(timeval_t *now, void *zone);
]]

local requests, next_request, threads = {}, 0, {}
local clock, counted_from, ramp = ffi.new("timeval_t"), nil, 0
num_refused, num_steady = 0, 0

local function now()
  ffi.C.gettimeofday(clock, nil)
  return tonumber(clock.seconds) + tonumber(clock.microseconds) / 1e6
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  ramp = tonumber(args[2])
  for index = 3, #args do
    local file = assert(io.open(args[index], "rb"))
    local headers = { ["Content-Type"] = args[1] }
    table.insert(requests, wrk.format("POST", nil, headers, file:read("*a")))
    file:close()
  end
end

function request()
  counted_from = counted_from or now() + ramp
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function response(status)
  if status ~= 200 then
    num_refused = num_refused + 1
  elseif now() >= counted_from then
    num_steady = num_steady + 1
  end
end

function done(summary, latency)
  local refused, steady = 0, 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("num_refused")
    steady = steady + thread:get("num_steady")
  end
  local errors = summary.errors
  io.write(string.format(
    '\nSUMMARY {"num_requests": %d, "seconds": %.6f, "num_steady": %d, "num_not_200": %d, "num_broken": %d, ' ..
    '"p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, steady, refused,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
