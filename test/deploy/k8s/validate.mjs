// Checks Kubernetes objects (a JSON array of them on stdin) against the schemas of Kubernetes, KEDA and the
// Prometheus operator, and prints what is wrong, a line each, beginning with the object's index.
//
// Two looks, since each sees what the other does not: the schemas know formats, ranges and required fields but
// let unknown fields pass; the types made of the same schemas refuse those.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

function moduleOf(apiVersion) {
  const group = apiVersion.includes("/") ? apiVersion.split("/")[0] : "";
  if (group.endsWith("keda.sh")) return `@kubernetes-models/keda/${apiVersion}`;
  if (group === "monitoring.coreos.com") return `@kubernetes-models/prometheus-operator/${apiVersion}`;
  return `kubernetes-models/${apiVersion}`;
}

async function bySchema(object) {
  const models = await import(moduleOf(object.apiVersion)).catch(() => ({}));
  const Model = models[object.kind];
  if (!Model) return [`no schema for ${object.apiVersion} ${object.kind}`];
  try {
    new Model(object).validate();
    return [];
  } catch (error) {
    if (!error.errors) throw error;
    return error.errors.map((e) => `${e.instancePath || "/"} ${e.message} ${JSON.stringify(e.params)}`);
  }
}

// A program of one constant an object, which is never run: the compiler knows whether its type fits.
function byType(objects) {
  const file = fileURLToPath(new URL("objects.ts", import.meta.url));
  const lines = objects.map(
    (o, i) => `const o${i}: import("${moduleOf(o.apiVersion)}").I${o.kind} = ${JSON.stringify(o)};`,
  );
  const options = {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile } = host;
  host.fileExists = (name) => name === file || fileExists(name);
  host.readFile = (name) => (name === file ? lines.join("\n") : readFile(name));
  const { getSourceFile } = host;
  host.getSourceFile = (name, ...rest) =>
    name === file ? ts.createSourceFile(name, lines.join("\n"), options.target) : getSourceFile(name, ...rest);
  const program = ts.createProgram([file], options, host);
  return ts.getPreEmitDiagnostics(program).map((d) => {
    const at = d.file?.fileName === file ? d.file.getLineAndCharacterOfPosition(d.start).line : -1;
    return [at, ts.flattenDiagnosticMessageText(d.messageText, " ").replaceAll("\n", " ")];
  });
}

const objects = JSON.parse(readFileSync(0, "utf8"));
for (const [i, object] of objects.entries())
  for (const problem of await bySchema(object)) console.log(`${i} ${problem}`);
for (const [i, problem] of byType(objects)) console.log(`${i} ${problem}`);
