// examples/llama_cpp/generate.mjs - a program of node-llama-cpp that knows nothing of this library: generate.mjs MODEL.gguf
// SPDX-License-Identifier: MIT
import {pathToFileURL} from "node:url";

// node-llama-cpp lies where cmake/get_llama_cpp.sh has put it.
const {getLlama, LlamaCompletion} = await import(pathToFileURL(process.env.NODE_LLAMA_CPP + "/dist/index.js"));
const llama = await getLlama({build: "never", gpu: false, progressLogs: false, logLevel: "error", maxThreads: 2});
const model = await llama.loadModel({modelPath: process.argv[2]});
const context = await model.createContext({contextSize: 512, threads: 1});
const completion = new LlamaCompletion({contextSequence: context.getSequence()});
console.log(await completion.generateCompletion("The keeper of the lighthouse", {maxTokens: 24, temperature: 0}));
