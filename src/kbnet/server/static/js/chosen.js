// The backend that the page uses. A build of the page for another place replaces this file.
import { HttpBackend } from "./http.js";

export const backend = new HttpBackend();
