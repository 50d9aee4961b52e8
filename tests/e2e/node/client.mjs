// Ingest, train, infer from a language that is not Python: needs protos/ and two gRPC packages, and nothing of ours.
//
//   node client.mjs <folder that holds protos/> <mesh file> <task file>
//
// The task is {dataset, model, schema, samples, spec, request}; the result is one JSON object on standard output.
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

// A token goes over TLS only, with every call; it is read anew each time, since whoever renews it replaces the file.
function credentials() {
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

// A call with one request and one answer; every one has a deadline.
const call = (client, method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, { deadline: Date.now() + DEADLINE_MS }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );

// google.protobuf.Struct, which proto-loader takes as the message it is.
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
  const components = ["model", "optimizer", "schedule"].map((part) => [part, toComponent(spec[part])]);
  const inputs = spec.inputs.map((input) => ({
    ...input,
    encoder: toComponent(input.encoder),
    augmentations: (input.augmentations ?? []).map(toComponent),
  }));
  return { ...spec, ...Object.fromEntries(components), inputs, metrics: spec.metrics.map(toComponent), dataset_version };
}

// Each message says how many samples stand before it, so that one which gets lost is an error and no hole.
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

// The job as it ended.
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
    values: values.map(({ data, text }) => (data ? { data: Buffer.from(data, "base64") } : { text })),
  })),
}));

// A creating call carries a request id: sent again, it returns what the first one made.
const create = { dataset: task.dataset, schema: task.schema, request_id: randomUUID() };
const { upload: opened } = await call(clients.ingest, "CreateUpload", create);
result.repeated = (await call(clients.ingest, "CreateUpload", create)).upload.name === opened.name;

// A client that does not know where it stands is told, and goes on from what is durable.
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

const exported = await call(clients.trainer, "ExportModel", { run: run.name, model: task.model, request_id: randomUUID() });
const { result: name } = await finished(clients.trainerJobs, exported.job.name);
result.model_version = (await call(clients.registry, "GetModelVersion", { name })).model_version.name;

const model_name = task.model.replace("models/", "");
await call(clients.inference, "RepositoryModelLoad", { model_name });
const answer = await call(clients.inference, "ModelInfer", {
  model_name,
  inputs: task.request.map(({ name, datatype, shape }) => ({ name, datatype, shape })),
  raw_input_contents: task.request.map(({ raw }) => Buffer.from(raw, "base64")),
});
result.output = { ...answer.outputs[0], raw: answer.raw_output_contents[0].toString("base64") };

Object.values(clients).forEach((client) => client.close());
console.log(JSON.stringify(result));
