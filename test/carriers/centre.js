/*
 * An SMS centre that speaks SMPP 3.4: it takes what is submitted, reports what became of it, and remembers
 * all of it.
 *
 * usage: node centre.js SMPP-PORT CONTROL-PORT      (of 127.0.0.1; 0: any free one)
 *
 * The first line on stdout has both ports. It goes by HTTP what it knows and what it is to do:
 *   GET /submits   [{"id","to","from","text","part","parts","registered","at"}], in the order of arrival
 *   GET /count     {"submits","reports","waiting","sessions"}: reports were taken, waiting were not yet
 *   PUT /manner    {"undelivered","silent","refused","delay_ms","hold"}: recipients that end so are not
 *                  delivered, never reported, refused when they are submitted; when reports come; none at all
 *
 * A report that is not taken within ten seconds, or whose session ends, is sent again to whoever is bound then.
 */
"use strict";

const http = require("http");
const smpp = require("smpp");

const REPORTS_AT_ONCE = 20;
const ANSWER_MS = 10000;
const ESM_RECEIPT = 0x04;
const UCS_2 = 0x08;

const AS_AT_FIRST = { undelivered: "", silent: "", refused: "", delay_ms: 0, hold: false };
const manner = { ...AS_AT_FIRST };
const submits = [];
const waiting = []; // reports that are due
const bound = new Set(); // sessions that take reports
let reports = 0;
let underWay = 0;
let due = 0; // timers

function endsAs(to, what) {
  return what !== "" && to.endsWith(what);
}

/* Which part of how many, as the user data header says. */
function partOf(udh) {
  for (const element of [].concat(udh || [])) {
    if (Buffer.isBuffer(element) && element.length === 5 && element[0] === 0 && element[1] === 3)
      return { part: element[4], parts: element[3] };
    if (Buffer.isBuffer(element) && element.length === 6 && element[0] === 8 && element[1] === 4)
      return { part: element[5], parts: element[4] };
  }
  return { part: 1, parts: 1 };
}

function textOf(pdu) {
  const said = pdu.short_message || {};
  const text = pdu.message_payload ? pdu.message_payload.message || pdu.message_payload : said.message;
  return Buffer.isBuffer(text) ? text.toString(pdu.data_coding === UCS_2 ? "utf16le" : "latin1") : String(text || "");
}

function smppTime(at) {
  return at.toISOString().replace(/[-:T]/g, "").slice(2, 12);
}

function reportOf(submit) {
  const state = endsAs(submit.to, manner.undelivered)
    ? { name: "UNDELIV", number: 5, error: "027" }
    : { name: "DELIVRD", number: 2, error: "000" };
  const now = new Date();
  const good = state.number === 2 ? "001" : "000";

  return {
    source_addr_ton: 1,
    source_addr_npi: 1,
    source_addr: submit.to,
    dest_addr_ton: 1,
    dest_addr_npi: 1,
    destination_addr: submit.from,
    esm_class: ESM_RECEIPT,
    receipted_message_id: submit.id,
    message_state: state.number,
    short_message:
      `id:${submit.id} sub:001 dlvrd:${good} submit date:${smppTime(submit.when)} done date:${smppTime(now)} ` +
      `stat:${state.name} err:${state.error} text:${submit.text.slice(0, 20).replace(/[^ -~]/g, "?")}`,
  };
}

/* ---- reports ---- */

/* Not at once: a session that is gone may not know it yet. */
function again(submit) {
  waiting.push(submit);
  setTimeout(pump, 100);
}

function report(session, submit) {
  let open = true;
  const end = (taken) => {
    if (!open) return;
    open = false;
    clearTimeout(timer);
    session.removeListener("close", lost);
    underWay--;
    if (!taken) return again(submit);
    reports++;
    pump();
  };
  const lost = () => end(false);
  const timer = setTimeout(lost, ANSWER_MS);

  underWay++;
  session.once("close", lost);
  if (!session.deliver_sm(reportOf(submit), (answer) => end(answer.command_status === smpp.ESME_ROK))) lost();
}

function pump() {
  const sessions = [...bound];

  while (!manner.hold && sessions.length && waiting.length && underWay < REPORTS_AT_ONCE)
    report(sessions[underWay % sessions.length], waiting.shift());
}

/* ---- what is submitted ---- */

function submitted(session, pdu) {
  const to = pdu.destination_addr;

  if (endsAs(to, manner.refused)) {
    session.send(pdu.response({ command_status: smpp.ESME_RINVDSTADR }));
    return;
  }
  const submit = {
    id: (0x10000000 + submits.length).toString(16),
    to,
    from: pdu.source_addr,
    text: textOf(pdu),
    ...partOf(pdu.short_message && pdu.short_message.udh),
    registered: pdu.registered_delivery,
    when: new Date(),
  };
  submit.at = submit.when.toISOString();
  submits.push(submit);
  session.send(pdu.response({ message_id: submit.id }));
  if (!(submit.registered & 0x03) || endsAs(to, manner.silent)) return;
  due++;
  setTimeout(() => {
    due--;
    waiting.push(submit);
    pump();
  }, manner.delay_ms);
}

function serve(session) {
  const bind = (pdu) => {
    session.send(pdu.response({ system_id: "centre" }));
    if (pdu.command !== "bind_transmitter") bound.add(session);
    pump();
  };

  session.setMaxListeners(2 * REPORTS_AT_ONCE);
  session.on("error", () => session.destroy());
  session.on("close", () => bound.delete(session));
  session.on("bind_transceiver", bind);
  session.on("bind_receiver", bind);
  session.on("bind_transmitter", bind);
  session.on("enquire_link", (pdu) => session.send(pdu.response()));
  session.on("submit_sm", (pdu) => submitted(session, pdu));
  session.on("unbind", (pdu) => {
    bound.delete(session);
    session.send(pdu.response());
    session.close();
  });
}

/* ---- control ---- */

function count() {
  return { submits: submits.length, reports, waiting: waiting.length + underWay + due, sessions: bound.size };
}

function reply(response, status, what) {
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(what));
}

function setManner(text) {
  const wanted = JSON.parse(text);

  for (const name of Object.keys(wanted))
    if (typeof wanted[name] !== typeof manner[name]) throw new Error(`there is no ${name} of that kind`);
  Object.assign(manner, AS_AT_FIRST, wanted);
  pump();
}

function control(request, response) {
  const asked = `${request.method} ${request.url}`;
  let body = "";

  request.on("data", (data) => (body += data));
  request.on("end", () => {
    if (asked === "GET /submits") return reply(response, 200, submits);
    if (asked === "GET /count") return reply(response, 200, count());
    if (asked !== "PUT /manner") return reply(response, 404, { error: "not_found" });
    try {
      setManner(body);
      reply(response, 200, manner);
    } catch (e) {
      reply(response, 400, { error: String(e.message) });
    }
  });
}

const [smppPort, controlPort] = process.argv.slice(2).map(Number);
const centre = smpp.createServer(serve);
const controls = http.createServer(control);

centre.listen(smppPort, "127.0.0.1", () =>
  controls.listen(controlPort, "127.0.0.1", () =>
    console.log(JSON.stringify({ smpp: centre.address().port, control: controls.address().port })),
  ),
);
