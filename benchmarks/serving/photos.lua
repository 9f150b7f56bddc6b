-- For wrk: posts the bodies of a folder round robin, counts what was not answered with 200, and says at the
-- end what it saw as one line of JSON. Arguments: the content type, then the files.

local requests, next_request, threads = {}, 0, {}
num_refused = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  for index = 2, #args do
    local file = assert(io.open(args[index], "rb"))
    local headers = { ["Content-Type"] = args[1] }
    table.insert(requests, wrk.format("POST", nil, headers, file:read("*a")))
    file:close()
  end
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function response(status)
  if status ~= 200 then
    num_refused = num_refused + 1
  end
end

function done(summary, latency)
  local refused = 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("num_refused")
  end
  local errors = summary.errors
  io.write(string.format(
    '\nSUMMARY {"num_requests": %d, "seconds": %.6f, "num_not_200": %d, "num_broken": %d, ' ..
    '"p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, refused,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
