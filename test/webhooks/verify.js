// Reads lines of {"secret":…,"headers":{…},"body":"…"} and says for each whether the specification's own
// library takes it: "ok", or why not.
const readline = require("readline");
const { Webhook } = require("standardwebhooks");

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { secret, headers, body } = JSON.parse(line);
  try {
    new Webhook(secret).verify(body, headers);
    console.log("ok");
  } catch (e) {
    console.log(String(e));
  }
});
