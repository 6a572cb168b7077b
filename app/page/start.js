// Starts the page once its first picture is painted: nobody waits for modules to see it.

const start = () => import("./main.js");
if (document.hidden) start(); // a tab in the background paints nothing
else requestAnimationFrame(() => setTimeout(start));
