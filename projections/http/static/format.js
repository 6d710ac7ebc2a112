// How numbers, ages and times are written. Times are in UTC, like those of the log and of the commands.

const WHOLE = new Intl.NumberFormat("en");

export function whole(number) {
  return WHOLE.format(Math.round(number));
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : whole(perSecond);
}

export function seconds(value) {
  if (value < 0.05) return "0 s";
  if (value < 10) return `${value.toFixed(1)} s`;
  return duration(value);
}

export function duration(value) {
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} days`;
}

export function count(number, one, many = `${one}s`) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}

// "12:03:05Z", with the date if it isn't the day of `now`.
export function clock(iso, now) {
  const text = new Date(iso).toISOString();
  const day = text.slice(0, 10) === new Date(now).toISOString().slice(0, 10) ? "" : `${text.slice(0, 10)} `;
  return `${day}${text.slice(11, 19)}Z`;
}

export function age(iso, now) {
  if (iso === null) return "never";
  const past = Math.max(0, (now - Date.parse(iso)) / 1000);
  return past < 2 ? "now" : `${duration(past)} ago`;
}
