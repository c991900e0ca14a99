import OpenAI from "openai";
import { ask } from "./ask.mjs";

console.log(JSON.stringify(await ask(OpenAI, process.argv[2])));
