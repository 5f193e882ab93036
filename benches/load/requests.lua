-- What wrk sends, from a file: one request a line, method, path, body and headers with tabs between them.
--
-- A file of one line is sent as it is, which costs wrk nothing; of many lines each thread sends them in turn from a place of
-- its own. A second argument makes every connection wait for up to so many milliseconds between requests. At the end one
-- line of JSON says what came back, in microseconds.

local threads = {}

function setup(thread)
    table.insert(threads, thread)
    thread:set("number", #threads)
end

local function read(path)
    local found = {}
    for line in io.lines(path) do
        local parts = {}
        for part in (line .. "\t"):gmatch("([^\t]*)\t") do
            table.insert(parts, part)
        end
        local headers = { Host = wrk.headers["Host"] }
        for i = 4, #parts do
            local name, value = parts[i]:match("^([^:]+): (.*)$")
            headers[name] = value
        end
        table.insert(found, { parts[1], parts[2], headers, parts[3] ~= "" and parts[3] or nil })
    end
    return found
end

function init(args)
    local found = read(args[1])
    if #found == 1 then
        wrk.method, wrk.path, wrk.headers, wrk.body = unpack(found[1], 1, 4)
    else
        local texts = {}
        for i, one in ipairs(found) do
            texts[i] = wrk.format(one[1], one[2], one[3], one[4])
        end
        math.randomseed(number)
        local turn = math.random(#texts)
        function request()
            turn = turn % #texts + 1
            return texts[turn]
        end
    end
    local pause = tonumber(args[2])
    if pause then
        function delay()
            return math.random(0, pause)
        end
    end
end

function done(summary, latency)
    local errors = summary.errors
    local line = '{"requests":%d,"micros":%d,"p50":%d,"p99":%d,"refused":%d,"broken":%d}\n'
    io.write(line:format(
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
        errors.connect + errors.read + errors.write + errors.timeout
    ))
end
