// Starts the page once its first picture is painted: nobody waits for modules to see it.

async function start() {
  try {
    await import("./main.js");
  } catch (error) {
    document.getElementById("broken").hidden = false; // texts or modules could not be fetched
    throw error;
  }
}

if (document.hidden) start(); // a tab in the background paints nothing
else requestAnimationFrame(() => setTimeout(start));
