// Ingests samples, trains a model and sends it a request, from a language other than Python. The client needs two
// gRPC packages and, from this repository, only protos/.
//
//   node client.mjs <folder that holds protos/> <mesh file> <task file>
//
// The task is {dataset, model, schema, samples, spec, request}, as in docs/examples/points_task.json. The result is one
// JSON object on standard output.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const DEADLINE_MS = 60_000;
const MESSAGE_SAMPLES = 5;

const [root, meshFile, taskFile] = process.argv.slice(2);
const [mesh, task] = [meshFile, taskFile].map((path) => JSON.parse(readFileSync(path, "utf8")));
const contracts = grpc.loadPackageDefinition(
  loader.loadSync(
    ["registry/v1/registry", "ingest/v1/ingest", "trainer/v1/trainer", "job/v1/job", "inference/v2/inference"].map(
      (name) => `protos/${name}.proto`,
    ),
    { includeDirs: [root], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true },
  ),
);
const { registry, ingest, trainer, job } = contracts.deepseek;

// A mesh without an identity listens on loopback only, without TLS and tokens. Otherwise every call sends a token. The
// file is read for each call, because a renewed token replaces it.
function credentials() {
  if (!mesh.identity) return grpc.credentials.createInsecure();
  const pem = (name) => readFileSync(`${mesh.identity}/${name}.pem`);
  const token = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${readFileSync(mesh.token_file, "ascii").trim()}`);
    done(null, metadata);
  });
  const tls = grpc.credentials.createSsl(pem("ca"), pem("key"), pem("cert"));
  return grpc.credentials.combineChannelCredentials(tls, token);
}

const open = (Client, service) => new Client(mesh.services[service].address, credentials());

// A unary call. Every call has a deadline.
const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, { deadline: Date.now() + DEADLINE_MS }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );

// google.protobuf.Struct, which proto-loader expects in the form of the message.
const toStruct = (object) => ({
  fields: Object.fromEntries(Object.entries(object).map(([key, value]) => [key, toValue(value)])),
});
function toValue(value) {
  if (typeof value === "number") return { numberValue: value };
  if (typeof value === "string") return { stringValue: value };
  return { boolValue: value };
}
const toComponent = ({ name, params = {} }) => ({ name, params: toStruct(params) });

function toSpec(spec, dataset_version) {
  const parts = ["model", "loss", "optimizer", "schedule"].filter((part) => spec[part]);
  const components = parts.map((part) => [part, toComponent(spec[part])]);
  const inputs = spec.inputs.map((input) => ({
    ...input,
    encoder: input.encoder && toComponent(input.encoder),
    augmentations: (input.augmentations ?? []).map(toComponent),
  }));
  const metrics = (spec.metrics ?? []).map(toComponent);
  return { ...spec, ...Object.fromEntries(components), inputs, metrics, dataset_version };
}

// Each message states how many samples precede it, so a lost message causes an error, not a gap.
function upload(client, name, samples, first) {
  return new Promise((resolve, reject) => {
    const stream = client.UploadSamples({ deadline: Date.now() + DEADLINE_MS }, (error, answer) =>
      error ? reject(error) : resolve(answer.upload),
    );
    for (let offset = first; offset < samples.length; offset += MESSAGE_SAMPLES) {
      const message = { offset, samples: samples.slice(offset, offset + MESSAGE_SAMPLES) };
      stream.write(offset === first ? { upload: name, ...message } : message);
    }
    stream.end();
  });
}

// Waits for a job, and returns its final state.
async function finished(client, name) {
  let last;
  for await (const { job: now } of client.WatchJob({ name }, { deadline: Date.now() + 5 * DEADLINE_MS })) last = now;
  if (last.state !== "JOB_STATE_SUCCEEDED") throw new Error(`${name}: ${JSON.stringify(last)}`);
  return last;
}

const clients = {
  registry: open(registry.v1.RegistryService, "registry"),
  ingest: open(ingest.v1.IngestService, "ingest"),
  ingestJobs: open(job.v1.JobService, "ingest"),
  trainer: open(trainer.v1.TrainerService, "trainer"),
  trainerJobs: open(job.v1.JobService, "trainer"),
  inference: open(contracts.inference.GRPCInferenceService, "inference"),
};
const result = {};

// Bytes are base64 in JSON.
const samples = task.samples.map((sample) => ({
  ...sample,
  fields: sample.fields.map(({ field, values }) => ({
    field,
    values: values.map((value) => (value.data ? { data: Buffer.from(value.data, "base64") } : value)),
  })),
}));

// A call that creates something has a request id: if it is repeated, it returns the result of the first call.
const create = { dataset: task.dataset, schema: task.schema, request_id: randomUUID() };
const { upload: opened } = await call(clients.ingest, "CreateUpload", create);
result.repeated = (await call(clients.ingest, "CreateUpload", create)).upload.name === opened.name;

// A wrong offset is refused. The client then continues after the samples that are stored durably.
const part = samples.slice(0, MESSAGE_SAMPLES);
await upload(clients.ingest, opened.name, part, 0);
result.refused = await upload(clients.ingest, opened.name, samples, 0).catch(({ code }) => grpc.status[code]);
const { upload: durable } = await call(clients.ingest, "GetUpload", { name: opened.name });
result.uploaded = (await upload(clients.ingest, opened.name, samples, durable.num_samples)).num_samples;

const commit = await call(clients.ingest, "CommitUpload", { name: opened.name, request_id: randomUUID() });
result.dataset_version = (await finished(clients.ingestJobs, commit.job.name)).result;

const submit = { spec: toSpec(task.spec, result.dataset_version), request_id: randomUUID() };
const { run } = await call(clients.trainer, "SubmitRun", submit);
result.events = {};
for await (const { event } of clients.trainer.WatchRun({ name: run.name }, { deadline: Date.now() + 5 * DEADLINE_MS }))
  result.events[event.kind] = (result.events[event.kind] ?? 0) + 1;
const { run: trained } = await call(clients.trainer, "GetRun", { name: run.name });
result.metrics = Object.fromEntries(trained.metrics.map(({ name, value }) => [name, value]));

const request = { run: run.name, model: task.model, request_id: randomUUID() };
const exported = await call(clients.trainer, "ExportModel", request);
const { result: name } = await finished(clients.trainerJobs, exported.job.name);
result.model_version = (await call(clients.registry, "GetModelVersion", { name })).model_version.name;

const model_name = task.model.replace("models/", "");
await call(clients.inference, "RepositoryModelLoad", { model_name });
// An input has either raw contents, which are base64 in JSON, or typed ones.
const answer = await call(clients.inference, "ModelInfer", {
  model_name,
  inputs: task.request.map(({ raw, ...input }) => input),
  raw_input_contents: task.request.filter(({ raw }) => raw).map(({ raw }) => Buffer.from(raw, "base64")),
});
result.output = { ...answer.outputs[0], raw: answer.raw_output_contents[0].toString("base64") };

Object.values(clients).forEach((client) => client.close());
console.log(JSON.stringify(result));
