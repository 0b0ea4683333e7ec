// Decodes what is exported to it, by somebody else's code than ours, and prints a line of JSON for
// each request. OTLP over HTTP on the first port, over gRPC on the second.
// usage: node receiver.js          (prints {"http": port, "grpc": port} first)
"use strict";
const http = require("http");
const http2 = require("http2");
const zlib = require("zlib");
const { opentelemetry } = require("@opentelemetry/otlp-transformer/build/src/generated/root.js");

const { ExportTraceServiceRequest, ExportTraceServiceResponse } = opentelemetry.proto.collector.trace.v1;
const answer = Buffer.from(ExportTraceServiceResponse.encode({}).finish());

function show(via, path, body) {
  const request = ExportTraceServiceRequest.toObject(ExportTraceServiceRequest.decode(body),
    { longs: String, bytes: String /* base64 */, defaults: true });
  console.log(JSON.stringify({ via, path, request }));
}

function read(stream, done) {
  const parts = [];
  stream.on("data", (part) => parts.push(part));
  stream.on("end", () => done(Buffer.concat(parts)));
}

const plain = http.createServer((req, res) => read(req, (body) => {
  show("http", req.url, req.headers["content-encoding"] === "gzip" ? zlib.gunzipSync(body) : body);
  res.setHeader("content-type", "application/x-protobuf");
  res.end(answer);
}));

const grpc = http2.createServer();
grpc.on("stream", (stream, headers) => read(stream, (frame) => {
  const body = frame.subarray(5, 5 + frame.readUInt32BE(1));
  show("grpc", headers[":path"], frame[0] ? zlib.gunzipSync(body) : body);
  stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
  stream.end(Buffer.concat([Buffer.from([0, 0, 0, 0, answer.length]), answer]));
}));

plain.listen(0, "127.0.0.1", () => grpc.listen(0, "127.0.0.1", () =>
  console.log(JSON.stringify({ http: plain.address().port, grpc: grpc.address().port }))));
